"""The table of fields in `wolkvox/schema.py`: what derives from it, and what is written by hand.

A new field is a line in the table. The test that adds a line to a copy of the package shows that
nothing else has to change for the field to be published, masked, compared and revised.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from publisher.commands.preview import MASKED
from publisher.events.encode import EVENT_FIELDS
from publisher.events.rows import read_rows
from publisher.wolkvox.schema import CHAT_FIELDS, MESSAGE_FIELDS, Trait
from publisher.wolkvox.timezone import Zone

ROOT: Final = Path(__file__).parents[1]
EVENT_SCHEMA: Final[dict[str, Any]] = json.loads(
    (ROOT / "schemas/event.v1.schema.json").read_bytes()
)["properties"]

LINE_BEFORE: Final = "    feeling: Text = UNSET\n"
NEW_LINE: Final = "    customer_email: Annotated[Text, Trait.PERSONAL] = UNSET\n"
PROGRAM: Final = """
import json, sys
from datetime import UTC, datetime, timedelta

import publisher
from publisher.commands.preview import masked
from publisher.commands.verify.comparison import Comparison
from publisher.events import kafka_record
from publisher.events.encode import Encoder, Provenance
from publisher.events.revisions import fingerprints_of
from publisher.events.rows import read_rows
from publisher.model import Window
from publisher.wolkvox import schema
from publisher.wolkvox.timezone import Zone

ROW = {"date": "2026-11-20 10:00:01", "from": "CUSTOMER", "message": "Hola"}
AT = datetime(2026, 11, 20, 15, tzinfo=UTC)

def read(email):
    row = {**ROW, "customer_email": email}
    body = {"code": "200", "data": [{"conn_id": "7", "conversation": [row]}]}
    data = schema.decode(json.dumps(body).encode())["data"]
    rows = read_rows(data, "wv0010", Zone("America/Bogota")).rows
    encoder = Encoder(Provenance("wv0010", "live", AT), max_event_bytes=1_000_000)
    [record] = encoder.encode(rows)
    return kafka_record.value_of(record), fingerprints_of(rows)

ana, before = read("ana@example.org")
eva, after = read("eva@example.org")
window = Window(AT, AT + timedelta(minutes=5))
comparison = Comparison(window.start, window.end, settled=window.end)
comparison.shown(eva, window)
comparison.published(json.loads(ana), later=False)
print(json.dumps({
    "package": publisher.__file__,
    "event": json.loads(ana),
    "masked": json.loads(masked(ana)),
    "same id": json.loads(ana)["event_id"] == json.loads(eva)["event_id"],
    "revised": before != after,
    "changed": [finding.fields for finding in comparison.changed],
    "fields": [*schema.MESSAGE_FIELDS],
}))
"""


def test_a_new_field_is_one_line(tmp_path: Path) -> None:
    package = tmp_path / "publisher"
    shutil.copytree(ROOT / "publisher", package, ignore=shutil.ignore_patterns("__pycache__"))
    table = package / "wolkvox/schema.py"
    source = table.read_text(encoding="utf-8")
    assert source.count(LINE_BEFORE) == 1
    table.write_text(source.replace(LINE_BEFORE, LINE_BEFORE + NEW_LINE), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["package"] == str(package / "__init__.py")
    assert seen["event"]["customer_email"] == "ana@example.org"
    assert "extra" not in seen["event"]
    assert seen["masked"]["customer_email"] == "***"
    assert seen["same id"]
    assert seen["revised"]
    assert seen["changed"] == [["customer_email"]]
    # The tests below and those of the docs compare these names with what is documented.
    assert {*seen["fields"]} - {*MESSAGE_FIELDS} == {"customer_email"}


def test_the_schema_knows_every_field() -> None:
    assert {*EVENT_FIELDS} == EVENT_SCHEMA.keys()


def test_the_schema_marks_what_preview_masks() -> None:
    marked = {name for name, content in EVENT_SCHEMA.items() if content.get("x-personal")}
    assert marked == {*MASKED}


def id_of(placed_under: str, /, **changes: Any) -> bytes:
    row = dict.fromkeys(MESSAGE_FIELDS, "1") | {"date": "2026-11-20 10:00:01"}
    names = dict.fromkeys(CHAT_FIELDS, "1") | {"conn_id": placed_under}
    element = names | {name: changes.pop(name) for name in [*changes] if name in CHAT_FIELDS}
    data = [{**element, "conversation": [row | changes]}]
    [(_, digest, *_)] = read_rows(data, "wv0010", Zone("America/Bogota")).rows
    return digest


@pytest.mark.parametrize("conn_id", ["7", "0"])
@pytest.mark.parametrize("name", [*MESSAGE_FIELDS, *CHAT_FIELDS])
def test_the_id_is_made_of_the_fields_that_the_table_says(conn_id: str, name: str) -> None:
    traits = {**CHAT_FIELDS, **MESSAGE_FIELDS}[name].traits
    other = {"date": "2026-11-20 10:00:02", "conn_id": "00" if conn_id == "0" else "8"}
    in_id = Trait.IN_ID in traits or (conn_id == "0" and Trait.IN_PLACEHOLDER_ID in traits)
    assert (id_of(conn_id) != id_of(conn_id, **{name: other.get(name, "2")})) == in_id


def test_an_undocumented_field_of_any_name_is_kept() -> None:
    """A row may hold a field that is called as a field of conversations is, or as ours are."""
    row = {"date": "2026-11-20 10:00:01", "conversation": "x", "conn_id": "y", "extra": "z"}
    [(_, _, _, message, _, _)] = read_rows(
        [{"conn_id": "7", "conversation": [row]}], "wv0010", Zone("America/Bogota")
    ).rows
    assert message.extra == {"conversation": "x", "conn_id": "y", "extra": "z"}
