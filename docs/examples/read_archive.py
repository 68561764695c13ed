"""Every version of every order in an archive, with nothing of ours: `python read_archive.py FOLDER_OF_AN_ACCOUNT OUT`.

Needs Python and `pip install zstandard`. FOLDER is a copy of archive/<account id> of the bucket.
"""

import base64
import hashlib
import io
import json
import pathlib
import sys

import zstandard

folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
first = max((int(path.stem) for path in folder.glob("chains/*.json")), default=1)  # what is before counts no more
paths = [path for path in folder.glob("[ds]*/*.json") if int(path.stem) >= first]
manifests = [(path, json.loads(path.read_text())) for path in paths]
days = [(path, told) for path, told in manifests if told["day"]]
covered = max((told["last"] for _, told in days), default=0)  # steps up to here lie in the files of days
steps = [(path, told) for path, told in manifests if not told["day"] and told["first"] > covered]
for path, told in sorted(days + steps, key=lambda one: one[1]["first"]):
    for part in told["parts"]:
        packed = (path.parent / part["name"]).read_bytes()
        assert hashlib.sha256(packed).hexdigest() == part["sha256"], part["name"]
        opened = zstandard.ZstdDecompressor(max_window_size=2**24).stream_reader(packed, read_across_frames=True)
        lines = iter(io.BufferedReader(opened).read().split(b"\n")[:-1])
        for line in lines:
            record = json.loads(line)
            if "size" not in record:
                continue
            body = base64.b64decode(record["base64"]) if "base64" in record else next(lines)
            if record["record"] == "version":
                assert hashlib.sha256(body).hexdigest() == record["sha256"], record["order_id"]
                name = " ".join(record[part] for part in ("order_id", "read_at", "sha256"))
                name = hashlib.sha256(name.encode()).hexdigest()
                (out / f"{name}.json").write_bytes(body)
