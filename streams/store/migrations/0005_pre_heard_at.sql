-- Whether their answer put a time on our last push: then external_updated_at is later than the newest event we applied.

alter table sync.link_state add column heard_at timestamptz;
comment on column sync.link_state.heard_at is 'Their time of the newest state that an event of theirs told; written by the applier.';
