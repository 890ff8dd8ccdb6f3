"""The canonical model: what ships, what is derived, what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import model
from schemas.problems import Problem

NULLABLE = ["null", "string"]
LIST = {"type": "array", "items": "string"}


def record(name, *fields, **attributes):
    return {"type": "record", "name": name, "fields": list(fields), **attributes}


def text(name, **attributes):
    return {"name": name, "type": NULLABLE, "default": None, **attributes}


def reference(name, entity, *, part=False):
    if part:
        return {"name": name, "type": "string", "references": {"entity": entity, "part": True}}
    return text(name, references={"entity": entity})


def refusal(*records):
    with pytest.raises(Problem) as caught:
        model.build({r["name"]: r for r in records})
    assert caught.value.code == "model_invalid"
    assert caught.value.next_step
    return caught.value.cause


@pytest.mark.covers("F160")
def test_what_is_pointed_at_comes_first_and_parts_follow_their_root():
    assert model.load().order == (
        "campus",
        "household",
        "household_member",
        "person",
        "address",
        "email",
        "phone_number",
        "case",
        "referral",
    )


def test_shipped_fields():
    shipped = {entity.name: [field.name for field in entity.fields] for entity in model.load()}
    assert shipped == {
        "campus": ["name", "code", "city", "country"],
        "household": ["name", "campus_id"],
        "household_member": ["household_id", "person_id", "role"],
        "person": [
            "first_name", "middle_name", "last_name", "birth_date", "gender",
            "household_id", "campus_id", "membership_status", "national_id",
        ],
        "address": ["person_id", "street", "city", "state", "postal_code", "country", "label", "is_primary"],
        "email": ["person_id", "address", "label", "is_primary"],
        "phone_number": ["person_id", "number", "label", "is_primary"],
        "case": [
            "person_id", "case_number", "registered_on", "closed_on", "workflow", "risk_level", "protection_concerns",
            "case_worker", "agency", "location_code", "consent_for_services", "consent_to_share",
        ],
        "referral": [
            "person_id", "case_id", "service", "reason", "urgency", "to_agency", "consent", "referred_on", "decision",
            "decided_on", "notes",
        ],
    }  # fmt: skip


def test_nothing_personal_is_captured():
    for entity in model.load():
        personal = {field.name for field in entity.fields if field.privacy}
        assert not personal & set(entity.captured_columns), entity.name


def test_parts_and_roots():
    entities = model.load()
    assert [part.name for part in entities.parts_of("person")] == ["address", "email", "phone_number"]
    assert entities.parts_of("campus") == ()
    assert entities.root_of("email").name == entities.root_of("person").name == "person"
    assert [root.name for root in entities.roots] == ["campus", "household", "person", "case", "referral"]


def test_attributes():
    person = model.load()["person"]
    assert person.field("national_id").protected
    assert person.field("national_id").privacy == "sensitive"
    assert person.field("birth_date").sql_type == "date"
    assert person.field("first_name").normalize == "name"


def test_what_protects_a_child_is_decided_by_a_person_and_never_logged():
    case, referral = model.load()["case"], model.load()["referral"]
    decided = [case.field(name) for name in ("risk_level", "case_worker", "consent_for_services", "consent_to_share")]
    decided += [referral.field(name) for name in ("consent", "decision", "reason")]
    assert [field.name for field in decided if not (field.protected and field.privacy)] == []


@pytest.mark.covers("F139")
def test_every_version_of_a_referral_is_delivered_and_of_nothing_else():
    assert [entity.name for entity in model.load() if entity.every_change] == ["referral"]


@pytest.mark.parametrize(
    ("entity_id", "name"),
    [("person_01h455vb4pex5vsknk084sn02q", "person"), ("phone_number_01h455vb4pex5vsknk084sn02q", "phone_number"),
     ("number_01h455vb4pex5vsknk084sn02q", None), ("person", None), ("", None)],
)  # fmt: skip
def test_the_prefix_of_an_id_tells_its_type(entity_id, name):
    found = model.load().type_of_id(entity_id)
    assert (found.name if found else None) == name


def test_a_users_own_folder_adds_and_overrides(tmp_path):
    (tmp_path / "clinic.avsc").write_text(json.dumps(record("clinic", reference("campus_id", "campus"), text("beds"))))
    (tmp_path / "campus.avsc").write_text(json.dumps(record("campus", text("name"), capture="full")))
    entities = model.load(tmp_path)
    assert entities.order.index("campus") < entities.order.index("clinic")
    assert "name" in entities["campus"].captured_columns


def test_a_cycle_of_plain_references_is_cut_and_parts_still_follow():
    entities = model.build(
        {
            "a": record("a", reference("b_id", "b"), reference("main_id", "z")),
            "b": record("b", reference("a_id", "a"), reference("b_id", "b")),
            "z": record("z", reference("a_id", "a", part=True)),
        }
    )
    assert entities.order == ("b", "a", "z")


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([record("a", text("version"))], "has a field `version`, which every entity has"),
        ([record("a", text("privat", privcy="personal"))], "gives `privat` the unknown attribute `privcy`"),
        ([record("a", text("x", privacy="secret"))], "gives `x` privacy `secret`"),
        ([record("a", reference("b_id", "b"))], "points at `b`, which does not exist"),
        ([record("a", {"name": "x", "type": "string"})], "does not let `x` be empty"),
        ([record("a", {"name": "x", "type": NULLABLE})], "does not let `x` be empty"),
        ([record("a", text("x", references={"entity": "a", "part": True}))], "lets `x` be empty"),
        ([record("a", {"name": "x", "type": ["null", LIST], "default": None})], "which no column holds"),
        ([record("a", text("x"), prefix="b"), record("b", text("x"))], "has the prefix of `a`"),
        ([record("a"), record("b", reference("a_id", "a", part=True)), record("c", reference("b_id", "b", part=True))],
         "is part of `b`, itself a part"),
        ([record("a"), record("b", reference("x", "a", part=True), reference("y", "a", part=True))],
         "is part of two types"),
        ([record("a", text("x"), every_change="yes")], "has every_change `yes`"),
        ([record("a", text("x"), every_change=1)], "has every_change `1`"),
        ([record("a", text("x"), every_chang=True)], "has the unknown attribute `every_chang`"),
        ([record("a"), record("b", reference("a_id", "a", part=True), every_change=True)],
         "(b.avsc) has every_change, and `b` is part of `a`"),
        ([record("a", every_change=True), record("b", reference("a_id", "a", part=True))],
         "(a.avsc) has every_change, and `b` is part of `a`"),
        ([record("A", text("x"))], "has the unusable name `A`"),
        ([record("a", text("x"), capture="some")], "has capture `some`"),
        ([record("a", {"name": "x", "type": ["null", "no_such"], "default": None})], "is no valid Avro schema"),
        ([{"type": "enum", "name": "a", "symbols": ["X"]}], "is no Avro record"),
    ],
)  # fmt: skip
def test_refusals_name_file_and_field(records, says):
    assert says in refusal(*records)


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / "bad.avsc").write_text("{")
    with pytest.raises(Problem, match=r"bad\.avsc"):
        model.load(tmp_path)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_the_order_holds_every_type_once_and_respects_what_has_no_cycle(edges):
    acyclic = {(low, high) for low, high in edges if low < high}
    names = "abcdefg"
    records = {
        name: record(name, *(reference(f"r{high}", names[high]) for low, high in sorted(acyclic) if low == n))
        for n, name in enumerate(names)
    }
    order = model.build(records).order
    assert sorted(order) == list(names)
    assert all(order.index(names[high]) < order.index(names[low]) for low, high in acyclic)
