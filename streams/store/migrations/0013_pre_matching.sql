-- Keys by which a record of theirs is found among our entities: one function for each way to normalise, so that what is
-- indexed and what is asked for are the same. NULL is no key: what people type into a field that they must fill in.

create function canon.match_email(value text) returns text language sql immutable parallel safe as
$$ select case when value ~ '^\s*[^\s@]+@[^\s@]+\s*$' then left(lower(regexp_replace(normalize(value, NFKC), '\s', '', 'g')), 320) end $$;

create function canon.match_phone(value text) returns text language sql immutable parallel safe as
$$ select case when value ~ '[0-9]([^0-9]*[0-9]){6}' then left(regexp_replace(value, '[^0-9]', '', 'g'), 320) end $$;

create function canon.match_id(value text) returns text language sql immutable parallel safe as
$$ select case when length(value) between 4 and 1000 and value ~ '[0-9]' and value !~ '^[\s./-]*([^\s./-])([\s./-]|\1)*$'
     then left(upper(regexp_replace(normalize(value, NFKC), '[\s./-]', '', 'g')), 320) end $$;

comment on function canon.match_email(text) is 'An e-mail address as it is compared; NULL when it is none.';
comment on function canon.match_phone(text) is 'The digits of a phone number; NULL for fewer than seven.';
comment on function canon.match_id(text) is 'An identifier without spaces and punctuation; NULL for 0, n/a, 0000000 and the like.';
