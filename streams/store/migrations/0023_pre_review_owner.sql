-- Whatever a person is asked has an owner and a deadline, or it waits for ever.

alter table sync.review   add column owner text;
alter table sync.conflict add column owner text;
alter table sync.connection add column review_within_s double precision not null default 604800 check (review_within_s > 0);
comment on column sync.connection.review_within_s is 'How long what it asks of a person may wait.';

create function sync.due_at(asked_at timestamptz, within_s double precision) returns timestamptz language sql stable parallel safe as
$$ select asked_at + make_interval(secs => coalesce(within_s, 604800)) $$;
comment on function sync.due_at(timestamptz, double precision) is 'By when a person should have answered.';
