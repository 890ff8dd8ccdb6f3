-- An edit of theirs that our push wrote over before we heard of it must be recognised when its event comes at last.
alter table sync.link_state add column over jsonb not null default '[]';
comment on column sync.link_state.over is 'Our last pushes, each with the state it was sent over: {"base", "version", "at", "pushed_version", "pushed_at"}.';
