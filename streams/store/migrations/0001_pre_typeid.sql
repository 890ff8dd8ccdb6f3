-- Ids: TypeID, a UUIDv7 in Crockford's base32 (lower case) behind the name of its type, for example
-- person_01jd8z3v5vf0qb4xk6r7n2m9pe. They sort by time, so an index of them grows at one end.

create schema if not exists canon;

-- 128 bits and two leading zeros make 26 digits of 5 bits. Spelt out, not looped: it is the DEFAULT of every insert.
create function canon.base32(value uuid) returns text
language plpgsql immutable strict parallel safe
as $$
declare
  digits constant text := '0123456789abcdefghjkmnpqrstvwxyz';
  hex    constant text := replace(value::text, '-', '');
  hi     constant bigint := ('x' || left(hex, 16))::bit(64)::bigint;
  lo     constant bigint := ('x' || right(hex, 16))::bit(64)::bigint;
begin
  return
       substr(digits, 1 + ((hi >> 61) & 7)::int, 1)
    || substr(digits, 1 + ((hi >> 56) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 51) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 46) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 41) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 36) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 31) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 26) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 21) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 16) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 11) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 6) & 31)::int, 1)
    || substr(digits, 1 + ((hi >> 1) & 31)::int, 1)
    || substr(digits, 1 + (((hi & 1) << 4) | ((lo >> 60) & 15))::int, 1)
    || substr(digits, 1 + ((lo >> 55) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 50) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 45) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 40) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 35) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 30) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 25) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 20) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 15) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 10) & 31)::int, 1)
    || substr(digits, 1 + ((lo >> 5) & 31)::int, 1)
    || substr(digits, 1 + (lo & 31)::int, 1);
end $$;
comment on function canon.base32(uuid) is 'The 26 digits of a TypeID.';

create function canon.typeid(prefix text) returns text
language sql volatile strict parallel safe
return prefix || '_' || canon.base32(uuidv7());
comment on function canon.typeid(text) is 'A new id, for example canon.typeid(''person'').';
