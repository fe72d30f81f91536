"""Three questions to the published snapshot: a marimo notebook, which runs as a script.

marimo edit docs/examples/notebook.py
python docs/examples/notebook.py
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium")


@app.cell
def _():
    import marimo as mo

    from serving import LmsWarehouse

    # The warehouse of LMS_WAREHOUSE, or a path. Only what is published is read.
    warehouse = LmsWarehouse()
    return mo, warehouse


@app.cell
def _(mo):
    mo.md("""
    # Who finishes, where do they stop, and why

    Each cell asks one question. An answer is a pandas data frame.
    """)
    return


@app.cell
def _(mo, warehouse):
    finished = warehouse.query(
        """
        select
            course_id,
            count(*) as learners,
            count(*) filter (status = 'completed') as completed,
            round(avg(progress_percent), 1) as mean_progress_percent
        from analytics.v_course_progress
        group by course_id
        order by course_id
        """
    )
    mo.vstack([mo.md("## How far did the learners of each course come?"), finished])
    return (finished,)


@app.cell
def _(mo, warehouse):
    steepest = warehouse.query(
        """
        select course_id, step, class_id, lost_count, lost_share
        from analytics.v_course_funnel
        where is_steepest
        order by lost_count desc, course_id
        """
    )
    mo.vstack([mo.md("## At which step does each course lose the most?"), steepest])
    return (steepest,)


@app.cell
def _(mo, warehouse):
    completions = warehouse.signals(signal_type="COURSE_COMPLETED")
    newest = completions.sort_values("occurred_at").tail(1)
    evidence = warehouse.events(newest.iloc[0]) if len(newest) else newest
    _title = mo.md("## Which events are behind the newest completed course?")
    mo.vstack([_title, evidence])
    return (evidence,)


if __name__ == "__main__":
    app.run()
