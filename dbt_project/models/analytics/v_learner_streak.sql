with

today as (

    select {{ local_date(now()) }} as today

),

-- A clock that runs ahead makes a run that goes on after today: it counts up to today.
runs as (

    select
        runs.user_id,
        runs.ended_on,
        runs.days,
        case
            when runs.started_on <= today.today and runs.ended_on >= today.today - 1
                then least(runs.ended_on, today.today) - runs.started_on + 1
            else 0
        end as current_days
    from {{ ref('prj_streak') }} as runs
    cross join today

),

final as (

    select
        user_id,
        cast(max(current_days) as bigint) as current_days,
        max(days) as longest_days,
        max(ended_on) as last_active_on
    from runs
    group by user_id

)

select * from final
