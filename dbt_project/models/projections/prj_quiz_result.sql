{{ config(unique_key=['user_id', 'class_id']) }}

with

submissions as (

    select
        *,
        score / max_score as score_ratio,
        -- Exact, so that the order of adding cannot show; NULL past 10^17 points.
        try_cast(score as decimal(24, 6)) as exact_score
    from {{ ref('stg_quiz_submission') }}
    where load_id > {{ watermark() }}

),

parts as (

    select
        user_id,
        class_id,
        1 as submission_count,
        case when passed then occurred_at end as passed_at,
        case when passed then event_id end as passed_event_id,
        event_id as best_event_id,
        occurred_at as best_at,
        score as best_score,
        score_ratio as best_score_ratio,
        occurred_at as first_at,
        event_id as first_event_id,
        score as first_score,
        occurred_at as latest_at,
        event_id as latest_event_id,
        score as latest_score,
        exact_score as score_sum,
        case when exact_score is null then 0 else 1 end as summed_count,
        load_id
    from submissions

    {% if not starts_over() %}
    union all by name

    -- The state of the classes that have new submissions, folded with them.
    select * exclude (average_score) from {{ this }}
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
        cast(sum(submission_count) as bigint) as submission_count,
        min(
            {{ moment('passed_at', 'passed_event_id') }}
        ) filter (where passed_at is not null) as passed,
        max(
            {{ struct({
                'score_ratio': 'best_score_ratio',
                'occurred_at': 'best_at',
                'event_id': 'best_event_id',
                'score': 'best_score',
            }) }}
        ) as best,
        min(
            {{ struct({
                'occurred_at': 'first_at',
                'event_id': 'first_event_id',
                'score': 'first_score',
            }) }}
        ) as first,
        max(
            {{ struct({
                'occurred_at': 'latest_at',
                'event_id': 'latest_event_id',
                'score': 'latest_score',
            }) }}
        ) as latest,
        cast(sum(score_sum) as decimal(38, 6)) as score_sum,
        cast(sum(summed_count) as bigint) as summed_count,
        max(load_id) as load_id
    from parts
    group by user_id, class_id

),

final as (

    select
        user_id,
        class_id,
        submission_count,
        passed.occurred_at as passed_at,
        passed.event_id as passed_event_id,
        best.event_id as best_event_id,
        best.occurred_at as best_at,
        best.score as best_score,
        best.score_ratio as best_score_ratio,
        first.occurred_at as first_at,
        first.event_id as first_event_id,
        first.score as first_score,
        latest.occurred_at as latest_at,
        latest.event_id as latest_event_id,
        latest.score as latest_score,
        score_sum,
        summed_count,
        -- Over all submissions, or not at all.
        case
            when summed_count = submission_count
                then cast(score_sum as double) / submission_count
        end as average_score,
        load_id
    from folded

)

select * from final
