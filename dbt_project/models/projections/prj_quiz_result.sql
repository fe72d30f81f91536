{{ config(unique_key=['user_id', 'class_id']) }}

with

submissions as (

    select
        *,
        score / max_score as score_ratio,
        -- Exact, so that the order of adding cannot show; NULL past 10^17 points.
        try_cast(score as decimal(24, 6)) as exact_score
    from {{ ref('stg_quiz_submission') }}
    where load_id > {{ place() }}

),

delta as (

    select
        user_id,
        class_id,
        count(*) as submission_count,
        min(case when passed then occurred_at end) as passed_at,
        min_by(event_id, {{ moment() }}) filter (where passed) as passed_event_id,
        max_by(event_id, row(score_ratio, occurred_at, event_id)) as best_event_id,
        max_by(occurred_at, row(score_ratio, occurred_at, event_id)) as best_at,
        max_by(score, row(score_ratio, occurred_at, event_id)) as best_score,
        max(score_ratio) as best_score_ratio,
        min(occurred_at) as first_at,
        min_by(event_id, {{ moment() }}) as first_event_id,
        min_by(score, {{ moment() }}) as first_score,
        max(occurred_at) as latest_at,
        max_by(event_id, {{ moment() }}) as latest_event_id,
        max_by(score, {{ moment() }}) as latest_score,
        sum(exact_score) as score_sum,
        count(exact_score) as summed_count,
        max(load_id) as load_id
    from submissions
    group by user_id, class_id

),

{% if not starts_over() %}
touched as (

    select state.*
    from {{ this }} as state
    inner join delta
        on state.user_id = delta.user_id and state.class_id = delta.class_id

),

{% endif %}
parts as (

    select * from delta
    {% if not starts_over() %}
    union all by name
    select * from touched
    {% endif %}

),

merged as (

    select
        user_id,
        class_id,
        cast(sum(submission_count) as bigint) as submission_count,
        min(passed_at) as passed_at,
        min_by(
            passed_event_id, {{ moment('passed_at', 'passed_event_id') }}
        ) filter (where passed_at is not null) as passed_event_id,
        max_by(best_event_id, row(best_score_ratio, best_at, best_event_id))
            as best_event_id,
        max_by(best_at, row(best_score_ratio, best_at, best_event_id)) as best_at,
        max_by(best_score, row(best_score_ratio, best_at, best_event_id)) as best_score,
        max(best_score_ratio) as best_score_ratio,
        min(first_at) as first_at,
        min_by(first_event_id, {{ moment('first_at', 'first_event_id') }})
            as first_event_id,
        min_by(first_score, {{ moment('first_at', 'first_event_id') }}) as first_score,
        max(latest_at) as latest_at,
        max_by(latest_event_id, {{ moment('latest_at', 'latest_event_id') }})
            as latest_event_id,
        max_by(latest_score, {{ moment('latest_at', 'latest_event_id') }})
            as latest_score,
        cast(sum(score_sum) as decimal(38, 6)) as score_sum,
        cast(sum(summed_count) as bigint) as summed_count,
        max(load_id) as load_id
    from parts
    group by user_id, class_id

),

final as (

    select
        *,
        -- Over all submissions, or not at all.
        case
            when summed_count = submission_count
                then cast(score_sum as double) / submission_count
        end as average_score
    from merged

)

select * from final
