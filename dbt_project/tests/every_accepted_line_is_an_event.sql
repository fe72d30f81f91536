{{ config(tags=['full_scan']) }}

-- The law of conservation against what is there. A failing row is a load that has
-- another number of events than lines it says it accepted (an event was lost, or landed
-- outside of a load), or more dead letters than lines it says it did not accept. Fewer
-- are right: dead letters are retried and discarded on purpose.
with

events as (

    select
        load_id,
        count(*) as event_count
    from {{ source('raw', 'lms_event') }}
    group by load_id

),

dead_letters as (

    select
        load_id,
        count(*) as dead_letter_count
    from {{ source('raw', 'dead_letter') }}
    group by load_id

),

load_ids as (

    select load_id from {{ source('raw', 'load') }}
    union
    select load_id from events
    union
    select load_id from dead_letters

),

compared as (

    select
        load_ids.load_id,
        coalesce(loads.accepted, 0) as accepted,
        coalesce(events.event_count, 0) as event_count,
        coalesce(loads.conflict + loads.rejected, 0) as not_accepted,
        coalesce(dead_letters.dead_letter_count, 0) as dead_letter_count
    from load_ids
    left join {{ source('raw', 'load') }} as loads on load_ids.load_id = loads.load_id
    left join events on load_ids.load_id = events.load_id
    left join dead_letters on load_ids.load_id = dead_letters.load_id

)

select * from compared
where accepted != event_count or dead_letter_count > not_accepted
