with

sources as (

    select
        signal_id,
        type,
        user_id,
        class_id,
        course_id,
        {{ each_member('source_event_ids') }} as event_id
    from {{ ref('lms_signal') }}

),

-- An event is the source of several signals: of a video's and of the step's, say.
named as (

    select distinct event_id from sources

),

keyed as (

    select
        event_id,
        {{ event_key('event_id') }} as event_key
    from named

),

-- Events by their key of 16 bytes, and only those that are asked for: what is held in
-- memory is the signals, not all events.
found as (

    select distinct events.event_key
    from {{ source('raw', 'lms_event') }} as events
    where events.event_key in (select keyed.event_key from keyed)

),

missing as (

    select sources.*
    from sources
    inner join keyed on sources.event_id = keyed.event_id
    left join found on keyed.event_key = found.event_key
    where found.event_key is null

),

final as (

    select
        signal_id,
        type,
        user_id,
        class_id,
        course_id,
        {{ array_in_order('event_id') }} as missing_event_ids
    from missing
    group by signal_id, type, user_id, class_id, course_id

)

select * from final
