-- Who a record is that only a person can match: one of ours, or somebody new. The answer stays with the item and holds for
-- all that they say of the record, until it is linked.

alter table sync.review
  add column decision   text check (decision in ('link', 'new')),
  add column entity_id  text,                           -- the one of ours that it is
  add column decided_at timestamptz,
  add column decided_by text,
  add constraint review_decision_whole check ((decision is not distinct from 'link') = (entity_id is not null)
    and (decision is null) = (decided_at is null) and (decision is null) = (decided_by is null));
create index review_answer on sync.review (org_id, connection, subject) where decision is not null;
create index review_answered on sync.review (decided_at, id) where decision is not null and closed_at is null;
