import pytest
pytestmark = pytest.mark.integration
def test_order(connect):
    owner, app = connect("owner"), connect("app")
    owner.execute("""create function canon.again() returns trigger language plpgsql as $$ begin
      if new.notes is null then update canon.referral set notes = 'seen' where id = new.id; end if; return null; end $$""")
    owner.execute("create trigger mine after insert or update on canon.referral for each row execute function canon.again()")
    rid = app.execute("insert into canon.referral (service) values ('x') returning id").fetchone()[0]
    print(app.execute("select id, op, version, row->>'notes' from sync.push_event where entity_id=%s order by id", [rid]).fetchall())
    assert 0
