{{ config(unique_key='user_id') }}

with

all_signals as (

    select
        user_id,
        type,
        occurred_at,
        load_id
    from {{ ref('prj_class_signal') }}
    union all
    select
        user_id,
        type,
        occurred_at,
        load_id
    from {{ ref('prj_course_signal') }}

),

touched as (

    select distinct user_id from all_signals
    where load_id > {{ watermark() }}

),

touched_signals as (

    select all_signals.*
    from all_signals
    inner join touched on all_signals.user_id = touched.user_id

),

final as (

    select
        user_id,
        count(case when type = 'VIDEO_COMPLETED' then 1 end) as video_completed_count,
        count(case when type = 'QUIZ_PASSED' then 1 end) as quiz_passed_count,
        count(case when type = 'STEP_COMPLETED' then 1 end) as step_completed_count,
        count(case when type = 'COURSE_COMPLETED' then 1 end) as course_completed_count,
        max(occurred_at) as last_signal_at,
        max(load_id) as load_id
    from touched_signals
    group by user_id

)

select * from final
