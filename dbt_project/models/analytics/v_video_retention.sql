with

watches as (

    select
        class_id,
        watched_bins,
        cast(floor(duration_sec + 0.5) as integer) as whole_duration_sec
    from {{ ref('prj_video_watch') }}

),

learners as (

    select
        class_id,
        count(*) as learner_count
    from watches
    group by class_id

),

durations as (

    select
        class_id,
        whole_duration_sec,
        row_number() over (
            partition by class_id order by count(*) desc, whole_duration_sec desc
        ) as most_frequent_first
    from watches
    where whole_duration_sec is not null
    group by class_id, whole_duration_sec

),

bins as (

    select
        class_id,
        {{ each_number('0', '(whole_duration_sec + 9) // 10 - 1') }} as bin
    from durations
    where most_frequent_first = 1

),

watched as (

    select
        class_id,
        {{ each_member('watched_bins') }} as entry
    from watches

),

counted as (

    select
        class_id,
        entry.bin,
        count(*) as viewer_count,
        sum(entry.ping_count) as ping_count
    from watched
    group by class_id, entry.bin

),

final as (

    select
        bins.class_id,
        cast(bins.bin as integer) as bin,
        cast(bins.bin * 10 as integer) as bin_start_sec,
        coalesce(counted.viewer_count, 0) as viewer_count,
        coalesce(counted.viewer_count, 0) / learners.learner_count as viewer_share,
        cast(coalesce(counted.ping_count, 0) as bigint) as ping_count,
        counted.ping_count / counted.viewer_count - 1 as replay_rate
    from bins
    inner join learners on bins.class_id = learners.class_id
    left join counted
        on bins.class_id = counted.class_id and bins.bin = counted.bin

)

select * from final
