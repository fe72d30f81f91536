{#- A late event can join two runs: all runs of a learner are replaced together, and all
    carry the newest load of the learner. -#}
{{ config(unique_key='user_id') }}

with

touched as (

    select distinct user_id
    from {{ ref('prj_active_day') }}
    where load_id > {{ watermark() }}

),

numbered as (

    select
        active_days.user_id,
        active_days.active_on,
        row_number() over (
            partition by active_days.user_id order by active_days.active_on
        ) as day_number,
        max(active_days.load_id) over (partition by active_days.user_id) as load_id
    from {{ ref('prj_active_day') }} as active_days
    inner join touched on active_days.user_id = touched.user_id

),

-- Of days without a gap, each less its number is the same day.
final as (

    select
        user_id,
        min(active_on) as started_on,
        max(active_on) as ended_on,
        count(*) as days,
        max(load_id) as load_id
    from numbered
    group by user_id, active_on - cast(day_number as integer)

)

select * from final
