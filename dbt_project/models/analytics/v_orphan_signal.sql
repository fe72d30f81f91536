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

-- By the key of 16 bytes: a tenth of the time that the ids themselves take.
missing as (

    select *
    from sources
    where
        {{ event_key('event_id') }} not in (
            select events.event_key
            from {{ source('raw', 'lms_event') }} as events
        )

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
