{{ config(
    tags=['full_scan'],
    meta={'dagster': {'ref': {'name': 'prj_class_activity'}}},
) }}

-- A failing row is a projection that has counted another number of events than the
-- loads that it has taken in hold: it missed some, or took some in twice. Cure: a full
-- refresh.
with

landed as (

    select
        load_id,
        event_type,
        count(*) as event_count
    from {{ ref('stg_event') }}
    group by load_id, event_type

),

counted as (

    select
        'prj_class_activity' as model,
        cast(null as varchar) as event_type,
        sum(event_count) as event_count
    from {{ ref('prj_class_activity') }}
    union all
    select
        'prj_user_quarter_hour' as model,
        cast(null as varchar) as event_type,
        sum(event_count) as event_count
    from {{ ref('prj_user_quarter_hour') }}
    union all
    select
        'prj_video_progress' as model,
        'VIDEO_PING' as event_type,
        sum(ping_count) as event_count
    from {{ ref('prj_video_progress') }}
    union all
    select
        'prj_quiz_result' as model,
        'QUIZ_SUBMIT' as event_type,
        sum(submission_count) as event_count
    from {{ ref('prj_quiz_result') }}

),

compared as (

    select
        counted.model,
        coalesce(counted.event_count, 0) as counted_events,
        coalesce(sum(landed.event_count), 0) as landed_events
    from counted
    left join {{ watermark_table() }} as consumed on counted.model = consumed.model
    left join landed
        on
            consumed.load_id >= landed.load_id
            and (counted.event_type is null or counted.event_type = landed.event_type)
    group by counted.model, counted.event_count

)

select * from compared
where counted_events != landed_events
