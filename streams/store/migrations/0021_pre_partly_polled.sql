-- What a poll brought in part only is not applied before it has been read in full.

alter table sync.fetch_intent add column polled_from timestamptz;  -- their time of the oldest part that a poll brought; null: none
create index fetch_intent_polled on sync.fetch_intent (org_id, connection, external_type, polled_from)
  where wanted_seq > done_seq and polled_from is not null;
