with

snapshots as (

    select distinct
        load_id,
        effective_from
    from {{ source('raw', 'catalogue') }}

),

started as (

    select
        load_id,
        -- The first snapshot holds from the beginning of time: before any event.
        case
            when load_id = min(load_id) over () then timestamp '0001-01-01'
            else effective_from
        end as valid_from
    from snapshots

),

intervals as (

    select
        load_id,
        valid_from,
        coalesce(
            lead(valid_from) over (order by valid_from, load_id),
            timestamp '9999-12-31'
        ) as valid_to
    from started

),

final as (

    -- Of two snapshots with one effective time, the one landed later holds.
    select * from intervals
    where valid_from < valid_to

)

select * from final
