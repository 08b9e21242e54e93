"""The descriptor pool that our message types live in.

protobuf keeps one default pool per process and refuses two definitions of one full name in it. Other etcd
clients register `etcdserverpb.…` there too, under file names of their own, and a program may well import
both them and us. So ours are in a pool of their own, and never collide.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
