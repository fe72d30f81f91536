with

rules as (

    select * from {{ ref('risk_rule') }}

),

classes as (

    select
        class_id,
        course_id
    from {{ ref('catalogue_class') }}
    where is_retired = 0

),

inactive as (

    select
        activity.user_id,
        activity.course_id,
        rules.reason,
        {{ days_before('activity.last_event_at', '-rules.after_days') }} as since,
        concat('no event for ', rules.after_days, ' days and longer') as detail,
        {{ sorted_array(['activity.last_event_id']) }} as source_event_ids
    from {{ ref('course_activity') }} as activity
    left join {{ ref('prj_course_signal') }} as completed
        on
            activity.user_id = completed.user_id
            and activity.course_id = completed.course_id
    inner join rules
        on
            rules.reason = 'inactive'
            and activity.last_event_at <= {{ days_before(now(), 'rules.after_days') }}
    where completed.occurred_at is null

),

failing as (

    select
        attempts.user_id,
        classes.course_id,
        rules.reason,
        attempts.class_id,
        attempts.submissions[rules.min_count].occurred_at as since,
        concat(
            attempts.class_id,
            ': ',
            len(attempts.submissions),
            ' submissions, none passed'
        ) as detail,
        {{ field_of_members('attempts.submissions', 'event_id') }} as event_ids
    from {{ ref('prj_quiz_attempt') }} as attempts
    inner join classes on attempts.class_id = classes.class_id
    inner join rules
        on
            rules.reason = 'failing_quiz'
            and len(attempts.submissions) >= rules.min_count
    where attempts.attempts_to_pass is null

),

failing_quiz as (

    select
        user_id,
        course_id,
        reason,
        min(since) as since,
        string_agg(detail, '; ' order by class_id) as detail,
        {{ union_of_arrays('event_ids') }} as source_event_ids
    from failing
    group by user_id, course_id, reason

),

stalled as (

    select
        videos.user_id,
        classes.course_id,
        rules.reason,
        rules.min_count,
        videos.class_id,
        {{ days_before('videos.last_ping_at', '-rules.after_days') }} as stalled_at,
        concat(
            videos.class_id,
            ': ',
            cast(floor(watch.coverage * 100) as integer),
            ' % seen'
        ) as detail,
        watch.last_ping_event_id
    from {{ ref('prj_video_progress') }} as videos
    inner join {{ ref('prj_video_watch') }} as watch
        on videos.user_id = watch.user_id and videos.class_id = watch.class_id
    inner join classes on videos.class_id = classes.class_id
    inner join rules
        on
            rules.reason = 'stalled_video'
            and watch.coverage < rules.below_coverage
            and videos.last_ping_at <= {{ days_before(now(), 'rules.after_days') }}
    where videos.completed_at is null

),

-- Since the moment at which there were as many as the rule asks for.
stalled_video as (

    select
        user_id,
        course_id,
        reason,
        {{ array_in_order('stalled_at') }}[any_value(min_count)] as since,
        string_agg(detail, '; ' order by class_id) as detail,
        {{ array_in_order('last_ping_event_id') }} as source_event_ids
    from stalled
    group by user_id, course_id, reason
    having count(*) >= any_value(min_count)

),

final as (

    select * from inactive
    union all
    select * from failing_quiz
    union all
    select * from stalled_video

)

select * from final
