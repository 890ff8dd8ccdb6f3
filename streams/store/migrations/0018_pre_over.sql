-- An edit of theirs that our push wrote over before we heard of it must be recognised when its event comes at last.
alter table sync.link_state add column over jsonb;        -- {"base", "version", "at", "pushes": [[version, at] …]}
comment on column sync.link_state.over is 'What we had heard last before our own pushes; null when nothing was pushed since an event.';
