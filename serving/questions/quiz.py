"""Which quizzes are hard, and how."""

from serving.reader import Reader, Row


def difficulty(reader: Reader) -> list[Row]:
    """One row for each class with a submission, the hardest first: by the share that
    passed at the first try, then by the share that passed at all."""
    rows = reader.rows(
        f"""
        select quizzes.*, classes.course_id, classes.title
        from analytics.v_quiz_difficulty as quizzes
        left join catalogue.catalogue_class as classes
            on quizzes.class_id = classes.class_id
        where {reader.classes("quizzes.class_id")}
        order by first_try_pass_rate, pass_rate, quizzes.class_id
        """
    )
    return reader.suppressed(rows, ("learner_count",))


def scores(reader: Reader, class_id: str) -> list[Row]:
    """How many learners' best submission lies in which tenth of the score, 0 to 9."""
    rows = reader.rows(
        f"""
        select tenths.tenth, count(results.user_id) as learner_count
        from range(10) as tenths (tenth)
        left join projections.prj_quiz_result as results
            on
                tenths.tenth = least(floor(results.best_score_ratio * 10), 9)
                and results.class_id = $class_id
                and {reader.classes("results.class_id")}
        group by tenths.tenth
        order by tenths.tenth
        """,
        class_id=class_id,
    )
    return reader.suppressed(rows, ("learner_count",))
