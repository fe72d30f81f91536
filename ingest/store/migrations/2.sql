-- Format 2, from files without a number: they are of several layouts, and get what they
-- lack. Events, dead letters, loads and the catalogue each of them has.
create table if not exists raw.format (
    number integer not null
);

create table if not exists raw.retried_letter (
    retry_load_id bigint not null,
    load_id bigint not null,
    line_number bigint not null,
    outcome varchar not null
);

create table if not exists raw.discarded_letter (
    load_id bigint not null,
    file varchar not null,
    line_number bigint not null,
    reason varchar not null,
    field varchar,
    detail varchar not null,
    event_id varchar,
    line blob not null,
    line_bytes bigint not null,
    line_sha256 varchar not null,
    first_seen timestamp not null,
    attempts integer not null,
    discarded_at timestamp not null,
    discarded_by varchar not null,
    why varchar not null,
    faults varchar
);

alter table raw.load add column if not exists file_mtime_ns bigint default 0;
alter table raw.load add column if not exists erased bigint default 0;
alter table raw.load add column if not exists packing varchar;
alter table raw.dead_letter add column if not exists faults varchar;
alter table raw.discarded_letter add column if not exists faults varchar;
update raw.dead_letter
set event_id = try(json_extract_string(decode(line), '$.event_id'))
where event_id is null;

create table if not exists raw.class_skill (
    load_id bigint not null,
    class_id varchar not null,
    skill_id varchar not null
);

-- What an older version called it.
alter table if exists raw.set_aside_event rename to event_without_contract;

create table if not exists raw.event_without_contract (
    event_id varchar not null,
    type varchar not null,
    user_id varchar,
    class_id varchar,
    line varchar using compression zstd not null,
    received_at timestamp not null,
    file varchar not null
);

create table if not exists raw.tombstone (
    user_hash varchar not null,
    key_id varchar not null,
    erased_at timestamp not null,
    reason varchar not null
);
