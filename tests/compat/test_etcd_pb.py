"""Our message modules: up to date with their sources, and at peace with foreign clients' modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from oarlock.etcd_pb import auth_pb2, kv_pb2, rpc_pb2

ROOT = Path(__file__).resolve().parents[2]


def test_committed_modules_say_what_the_proto_files_say(tmp_path: Path) -> None:
    """Descriptors are compared, not text, so that another protoc's formatting does not matter."""
    from grpc_tools import protoc

    for module in (kv_pb2, auth_pb2, rpc_pb2):
        committed = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(committed)
        out = tmp_path / "descriptors"
        source = ROOT / "src"
        assert protoc.main(["protoc", f"-I{source}", f"--descriptor_set_out={out}", committed.name]) == 0
        fresh = FileDescriptorSet.FromString(out.read_bytes()).file[0]
        for message in (committed, fresh):
            for descriptor in _all_messages(message.message_type):
                for field in descriptor.field:
                    field.ClearField("json_name")  # derived; protoc writes it only into code
        assert fresh == committed, f"{committed.name}: run scripts/generate_protobuf.py"


def _all_messages(messages: Iterable[DescriptorProto]) -> Iterator[DescriptorProto]:
    for message in messages:
        yield message
        yield from _all_messages(message.nested_type)


def test_the_script_writes_the_committed_files(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_protobuf.py", "--into", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    for path in map(Path, run.stdout.split()):
        committed = ROOT / "src" / path.relative_to(tmp_path)
        assert path.read_text() == committed.read_text(), committed


def test_a_program_can_import_us_beside_another_etcd_client() -> None:
    """aetcd registers the same full names in protobuf's process-wide pool."""
    code = (
        "import aetcd.rpc as theirs; from oarlock.etcd_pb import rpc_pb2 as ours;"
        "data = theirs.PutRequest(key=b'k', value=b'v', lease=7).SerializeToString();"
        "assert ours.PutRequest.FromString(data).lease == 7"
    )
    for order in (code, "from oarlock.etcd_pb import rpc_pb2;" + code):
        run = subprocess.run([sys.executable, "-c", order], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
