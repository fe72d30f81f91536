{{ config(unique_key=['user_id', 'class_id', 'type']) }}

with

videos as (

    select
        user_id,
        class_id,
        completed_at,
        completed_event_id,
        load_id
    from {{ ref('prj_video_progress') }}
    where completed_at is not null

),

quizzes as (

    select
        user_id,
        class_id,
        passed_at,
        passed_event_id,
        load_id
    from {{ ref('prj_quiz_result') }}
    where passed_at is not null

),

touched as (

    select
        user_id,
        class_id
    from videos
    where load_id > {{ watermark() }}
    union
    select
        user_id,
        class_id
    from quizzes
    where load_id > {{ watermark() }}

),

parts as (

    select
        touched.user_id,
        touched.class_id,
        videos.completed_at,
        videos.completed_event_id,
        quizzes.passed_at,
        quizzes.passed_event_id,
        greatest(videos.load_id, quizzes.load_id) as load_id
    from touched
    left join videos
        on touched.user_id = videos.user_id and touched.class_id = videos.class_id
    left join quizzes
        on touched.user_id = quizzes.user_id and touched.class_id = quizzes.class_id

),

-- For each catalogue version that tracks the class: when all that it asks was done.
step_moments as (

    select
        parts.user_id,
        parts.class_id,
        versions.course_id,
        versions.valid_to,
        greatest(
            versions.valid_from,
            case when versions.has_video = 1 then parts.completed_at end,
            case when versions.has_quiz = 1 then parts.passed_at end
        ) as occurred_at,
        case when versions.has_video = 1 then parts.completed_event_id end
            as video_event_id,
        case when versions.has_quiz = 1 then parts.passed_event_id end
            as quiz_event_id,
        parts.load_id
    from parts
    inner join {{ ref('catalogue_class_version') }} as versions
        on parts.class_id = versions.class_id
    where
        (versions.has_video = 1 or versions.has_quiz = 1)
        and (versions.has_video = 0 or parts.completed_at is not null)
        and (versions.has_quiz = 0 or parts.passed_at is not null)

),

steps as (

    select
        *,
        row_number() over (
            partition by user_id, class_id order by occurred_at, valid_to
        ) as earliest_first
    from step_moments
    where occurred_at < valid_to

),

all_signals as (

    select
        'VIDEO_COMPLETED' as type,
        user_id,
        class_id,
        cast(null as varchar) as course_id,
        completed_at as occurred_at,
        {{ sorted_array(['completed_event_id']) }} as source_event_ids,
        load_id
    from parts
    where completed_at is not null

    union all

    select
        'QUIZ_PASSED' as type,
        user_id,
        class_id,
        cast(null as varchar) as course_id,
        passed_at as occurred_at,
        {{ sorted_array(['passed_event_id']) }} as source_event_ids,
        load_id
    from parts
    where passed_at is not null

    union all

    select
        'STEP_COMPLETED' as type,
        user_id,
        class_id,
        course_id,
        occurred_at,
        {{ sorted_array(['video_event_id', 'quiz_event_id']) }} as source_event_ids,
        load_id
    from steps
    where earliest_first = 1

)

select * from all_signals
