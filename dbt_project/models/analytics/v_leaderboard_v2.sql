with

badge_points as (

    select
        user_id,
        cast(sum(points) as bigint) as badge_points
    from {{ ref('v_badge_award') }}
    group by user_id

),

levels as (

    select
        level,
        min_points,
        lead(min_points) over (order by min_points) as next_points
    from {{ ref('learner_level') }}

),

points as (

    select
        leaderboard.*,
        coalesce(badge_points.badge_points, 0) as badge_points
    from {{ ref('v_leaderboard', v=1) }} as leaderboard
    left join badge_points on leaderboard.user_id = badge_points.user_id

),

final as (

    select
        points.rank,
        points.user_id,
        points.total_xp,
        points.video_completed_count,
        points.quiz_passed_count,
        points.step_completed_count,
        points.course_completed_count,
        points.badge_points,
        levels.level
    from points
    left join levels
        on
            points.total_xp + points.badge_points >= levels.min_points
            and (
                points.total_xp + points.badge_points < levels.next_points
                or levels.next_points is null
            )

)

select * from final
