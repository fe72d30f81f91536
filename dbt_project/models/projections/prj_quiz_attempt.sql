{{ config(unique_key=['user_id', 'class_id']) }}

with

submissions as (

    select
        user_id,
        class_id,
        {{ struct({
            'occurred_at': 'occurred_at',
            'event_id': 'event_id',
            'is_passed': 'passed',
            'is_perfect': 'score = max_score',
        }) }} as submission,
        case when passed then score / max_score end as lowest_passed_ratio,
        load_id
    from {{ ref('stg_quiz_submission') }}
    where load_id > {{ watermark() }}

),

parts as (

    select * from submissions

    {% if not starts_over() %}
    union all

    -- All earlier ones of the classes that have new submissions: one that comes late
    -- changes the number of each after it.
    select
        user_id,
        class_id,
        {{ each_member('submissions') }} as submission,
        lowest_passed_ratio,
        load_id
    from {{ this }}
    where
        (user_id, class_id) in (
            select
                submissions.user_id,
                submissions.class_id
            from submissions
        )
    {% endif %}

),

folded as (

    select
        user_id,
        class_id,
        {{ array_in_order('submission') }} as submissions,
        min(submission) filter (where submission.is_passed) as first_passed,
        min(lowest_passed_ratio) as lowest_passed_ratio,
        max(load_id) as load_id
    from parts
    group by user_id, class_id

),

final as (

    select
        user_id,
        class_id,
        submissions,
        case
            when first_passed is not null
                then {{ count_members('submissions', 'each <= first_passed') }}
        end as attempts_to_pass,
        lowest_passed_ratio,
        load_id
    from folded

)

select * from final
