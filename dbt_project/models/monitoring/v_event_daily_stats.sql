with

quarter_hours as (

    select
        *,
        {{ local_date('quarter_hour') }} as event_date
    from {{ ref('prj_user_quarter_hour') }}

),

final as (

    select
        event_date,
        event_type,
        cast(sum(event_count) as bigint) as event_count,
        count(distinct user_id) as user_count
    from quarter_hours
    group by event_date, event_type

)

select * from final
