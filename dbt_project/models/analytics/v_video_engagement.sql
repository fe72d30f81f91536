with

final as (

    select
        progress.user_id,
        progress.class_id,
        watch.coverage,
        watch.watched_sec,
        watch.duration_sec,
        {{ whole('progress.max_position_sec') }} as video_max_position_sec,
        case when progress.completed_at is null then 0 else 1 end as video_completed,
        case
            when
                progress.completed_at is not null
                and watch.coverage < {{ threshold('half_watched') }}
                then 1
            else 0
        end as skipped_to_end,
        progress.ping_count,
        progress.first_ping_at,
        progress.last_ping_at
    from {{ ref('prj_video_progress') }} as progress
    left join {{ ref('prj_video_watch') }} as watch
        on progress.user_id = watch.user_id and progress.class_id = watch.class_id

)

select * from final
