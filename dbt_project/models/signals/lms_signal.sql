with

all_signals as (

    select
        type,
        user_id,
        class_id,
        course_id,
        occurred_at,
        source_event_ids,
        load_id,
        class_id as step_or_course_id
    from {{ ref('prj_class_signal') }}

    union all

    select
        type,
        user_id,
        cast(null as varchar) as class_id,
        course_id,
        occurred_at,
        source_event_ids,
        load_id,
        course_id as step_or_course_id
    from {{ ref('prj_course_signal') }}

),

final as (

    select
        -- The length keeps ('ab', 'c') and ('a', 'bc') apart, whatever ids hold.
        md5(
            concat(
                all_signals.type,
                ':',
                length(all_signals.user_id),
                ':',
                all_signals.user_id,
                all_signals.step_or_course_id
            )
        ) as signal_id,
        all_signals.type,
        all_signals.user_id,
        all_signals.class_id,
        all_signals.course_id,
        all_signals.occurred_at,
        all_signals.source_event_ids,
        signal_types.rule_version,
        all_signals.load_id
    from all_signals
    inner join {{ ref('signal_type') }} as signal_types
        on all_signals.type = signal_types.type

)

select * from final
