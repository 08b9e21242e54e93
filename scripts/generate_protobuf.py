#!/usr/bin/env python3
"""Regenerate src/oarlock/etcd_pb/*_pb2.py and .pyi from the .proto files beside them.

Usage: python scripts/generate_protobuf.py [--into DIRECTORY]

Needs grpcio-tools and mypy-protobuf (both in requirements/dev.txt). The generated modules are committed, so
that users need neither. One thing is changed on the way: descriptors go to our own pool instead of the
process-wide one (see src/oarlock/etcd_pb/pool.py for why).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
PACKAGE = "oarlock/etcd_pb"
FILES = ("kv", "auth", "rpc")

DEFAULT_POOL = "_descriptor_pool.Default().AddSerializedFile("
OUR_POOL = "_POOL.AddSerializedFile("
POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
OUR_POOL_IMPORT = "from oarlock.etcd_pb.pool import POOL as _POOL\n"
VERSION_IMPORT = "from google.protobuf import runtime_version as _runtime_version\n"
VERSION_CHECK = re.compile(r"_runtime_version\.ValidateProtobufRuntimeVersion\(.*?\n\)\n", re.DOTALL)


def generate(into: Path) -> list[Path]:
    """Write the modules below `into` (a source root) and return their paths."""
    from grpc_tools import protoc

    # protoc looks for the mypy plug-in on PATH; it is installed beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    protos = [f"{PACKAGE}/{name}.proto" for name in FILES]
    arguments = ["protoc", f"-I{SOURCE}", f"--python_out={into}", f"--mypy_out=quiet:{into}", *protos]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed: see its messages above")
    modules = [into / PACKAGE / f"{name}_pb2.py" for name in FILES]
    for module in modules:
        module.write_text(_adapted(module.read_text()))
    return [*modules, *(module.with_suffix(".pyi") for module in modules)]


def _adapted(text: str) -> str:
    """`text` with the two changes that the top of this file tells of."""
    for part in (DEFAULT_POOL, POOL_IMPORT, VERSION_IMPORT):
        if text.count(part) != 1:
            raise SystemExit(f"protoc's output changed its form ({part.strip()!r}): adapt this script to it")
    text = text.replace(DEFAULT_POOL, OUR_POOL).replace(POOL_IMPORT, OUR_POOL_IMPORT)
    text, found = VERSION_CHECK.subn("", text.replace(VERSION_IMPORT, ""))
    if found != 1:
        raise SystemExit("protoc's output changed its form (no version check): adapt this script to it")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--into", type=Path, default=SOURCE, help="source root to write below")
    for path in generate(parser.parse_args().into):
        print(path)


if __name__ == "__main__":
    main()
