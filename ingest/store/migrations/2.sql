-- Format 2, from files without a number: they are of several layouts, and get what they
-- lack.
--
-- No primary key and no unique index: DuckDB keeps an index in memory (5 to 8 GiB for 50
-- million ids) and has reported failures of replaying one after a kill. The loader keeps
-- `event_id` unique, and a data test proves it. `line` is compressed with zstd: a third
-- of the size that DuckDB's own choice gives.
create schema if not exists raw;

-- The number of this file's format: FORMAT in database.py.
create table if not exists raw.format (
    number integer not null
);

create table if not exists raw.lms_event (
    event_id varchar not null,
    event_key uuid not null,
    type varchar not null,
    schema_version integer not null,
    user_id varchar not null,
    class_id varchar not null,
    course_id varchar,
    occurred_at timestamp not null,
    line varchar using compression zstd not null,
    payload json generated always as (json_extract(line, '$.payload')) virtual,
    received_at timestamp not null,
    load_id bigint not null,
    file varchar not null,
    line_number bigint not null
);

create table if not exists raw.dead_letter (
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
    faults varchar
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

create table if not exists raw.load (
    load_id bigint not null,
    kind varchar not null,
    file varchar not null,
    file_sha256 varchar not null,
    file_bytes bigint not null,
    file_mtime_ns bigint not null,
    lines_read bigint not null,
    accepted bigint not null,
    duplicate bigint not null,
    conflict bigint not null,
    rejected bigint not null,
    received_at timestamp not null,
    seconds double not null,
    loader_version varchar not null,
    contracts_digest varchar not null,
    erased bigint default 0,
    packing varchar
);

-- For a file that an older version made.
alter table raw.load add column if not exists erased bigint default 0;
alter table raw.load add column if not exists packing varchar;
alter table raw.dead_letter add column if not exists faults varchar;
alter table raw.discarded_letter add column if not exists faults varchar;
update raw.dead_letter
set event_id = try(json_extract_string(decode(line), '$.event_id'))
where event_id is null;

create table if not exists raw.catalogue (
    load_id bigint not null,
    effective_from timestamp not null,
    class_id varchar not null,
    course_id varchar not null,
    title varchar not null,
    position integer not null,
    has_video integer not null,
    has_quiz integer not null
);

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
