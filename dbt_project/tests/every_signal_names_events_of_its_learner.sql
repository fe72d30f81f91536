{{ config(
    tags=['full_scan'],
    meta={'dagster': {'ref': {'name': 'lms_signal'}}},
) }}

-- The law of explainability. A failing row is an event that a signal names as its
-- source and that was never accepted, or is another learner's, or of another class.
with

sources as (

    select
        signal_id,
        user_id,
        class_id,
        unnest(source_event_ids) as event_id
    from {{ ref('lms_signal') }}

)

select sources.*
from sources
left join {{ source('raw', 'lms_event') }} as events
    on
        sources.event_id = events.event_id
        and sources.user_id = events.user_id
        -- A course is completed by the events of many classes.
        and (sources.class_id is null or sources.class_id = events.class_id)
where events.event_id is null
