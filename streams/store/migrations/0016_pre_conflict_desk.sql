-- What people decide: who resolved a conflict and why, who restored a value that had lost, who closed a review item.

alter table sync.conflict
  add column rule        text,                          -- why a person is asked: protected, manual …
  add column resolved_by text,
  add column note        text;
create index conflict_due on sync.conflict (org_id, id) where resolved_at is null;

alter table sync.conflict_log
  add column decided_by  text,                          -- the person, where none of the rules decided
  add column restored_by text;
alter table sync.conflict_log drop constraint conflict_log_winner_check;
-- neither: a third value took the place of both.
alter table sync.conflict_log add constraint conflict_log_winner_check check (winner in ('ours', 'theirs', 'neither'));

alter table sync.review
  add column value     bytea,                           -- the record of inbound.events, where an event is what it is about
  add column closed_by text,
  add column note      text;
create index review_due on sync.review (org_id, id) where closed_at is null;
