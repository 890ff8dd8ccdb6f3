"""From model and catalog to SQL."""

import pytest

from schemas import model
from schemas.problems import Problem
from streams.store import canon


def record(name, *fields, **attributes):
    return {"type": "record", "name": name, "fields": list(fields), **attributes}


ROOT = record("case", {"name": "group", "type": ["null", "string"], "default": None})
PART = record("note", {"name": "case_id", "type": "string", "references": {"entity": "case", "part": True}})
ENTITIES = model.build({"case": ROOT, "note": PART})


def sql(statements):
    return [statement.as_string() for statement in statements]


def as_planned(entity):
    """The catalog as it is after the plan has run."""
    return canon.Table(
        columns={**canon.COMMON_COLUMNS, **{field.name: field.sql_type for field in entity.fields}},
        indexes=set(canon.indexes(entity)),
        triggers=dict.fromkeys(canon.triggers(entity), "A"),
        constraints=set(canon.foreign_keys(entity)),
        identity=f"{entity.name}_identity",
    )


def test_a_new_table_has_the_common_columns_and_its_own():
    text = canon.create_table(ENTITIES["case"]).as_string()
    assert text.startswith('create table "canon"."case" (')
    for clause in (
        "\"org_id\" text not null default current_setting('syncline.org_id', true)",
        "\"id\" text not null default canon.typeid('case') check (starts_with(id, 'case_'))",
        '"deleted_at" timestamp with time zone',
        "\"custom\" jsonb not null default '{}'",
        '"changed_xid" xid8 not null',
        '"sync_key" text not null',
        '"group" text ',
        "primary key (org_id, id)",
    ):
        assert clause in text


def test_a_part_goes_with_its_root_and_a_root_has_no_foreign_keys():
    (key,) = sql(canon.foreign_keys(ENTITIES["note"]).values())
    assert key.endswith('references "canon"."case" on delete cascade deferrable initially immediate')
    assert canon.foreign_keys(ENTITIES["case"]) == {}
    assert 'create index "note_case_id" on "canon"."note" (org_id, "case_id")' in sql(
        canon.indexes(ENTITIES["note"]).values()
    )
    assert "canon.stamp('case_id')" in canon.triggers(ENTITIES["note"])["zzz_stamp"].as_string()


def test_nothing_is_planned_when_all_is_there():
    assert canon.plan(ENTITIES, {entity.name: as_planned(entity) for entity in ENTITIES}) == []


def test_triggers_are_enabled_always():
    planned = sql(canon.plan(ENTITIES, {}))
    assert sum("enable always trigger" in statement for statement in planned) == 7
    there = {entity.name: as_planned(entity) for entity in ENTITIES}
    there["case"].triggers["zzz_stamp"] = "O"
    assert sql(canon.plan(ENTITIES, there)) == ['alter table "canon"."case" enable always trigger "zzz_stamp"']


@pytest.mark.parametrize(
    ("column", "has", "says"),
    [
        ("group", "integer", "canon.case.group has the type integer, the model says text"),
        ("version", "integer", "canon.case.version has the type integer, the model says bigint"),
        ("sync_key", None, "canon.case.sync_key is missing"),
    ],
)
def test_contradictions_name_table_column_and_both_types(column, has, says):
    there = {entity.name: as_planned(entity) for entity in ENTITIES}
    if has:
        there["case"].columns[column] = has
    else:
        del there["case"].columns[column]
    with pytest.raises(Problem) as caught:
        canon.plan(ENTITIES, there)
    assert says in caught.value.cause
    assert caught.value.code == "canon_contradiction"
