with

results as (

    select
        results.class_id,
        results.submission_count,
        results.best_score_ratio,
        attempts.attempts_to_pass
    from {{ ref('prj_quiz_result') }} as results
    inner join {{ ref('prj_quiz_attempt') }} as attempts
        on
            results.user_id = attempts.user_id
            and results.class_id = attempts.class_id

),

final as (

    select
        class_id,
        count(*) as learner_count,
        cast(sum(submission_count) as bigint) as submission_count,
        count(case when attempts_to_pass = 1 then 1 end) / count(*)
            as first_try_pass_rate,
        count(attempts_to_pass) / count(*) as pass_rate,
        {{ quantile('attempts_to_pass', 0.5) }} as median_attempts_to_pass,
        {{ mean_ratio('best_score_ratio') }} as score_ratio_mean,
        {{ quantile('best_score_ratio', 0.25) }} as score_ratio_q25,
        {{ quantile('best_score_ratio', 0.5) }} as score_ratio_q50,
        {{ quantile('best_score_ratio', 0.75) }} as score_ratio_q75
    from results
    group by class_id

)

select * from final
