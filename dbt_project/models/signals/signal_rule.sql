-- It goes with the state that the threshold made: where that failed, it stays.
-- depends_on: {{ ref('prj_video_progress') }}

with

final as (

    select
        type,
        rule_version,
        case
            when type = 'VIDEO_COMPLETED'
                then cast({{ var('completion_threshold') }} as double)
        end as completion_threshold
    from {{ ref('signal_type') }}

)

select * from final
