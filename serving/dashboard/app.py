"""What `streamlit run` starts. Every page has an address that can be sent."""

import gc

import streamlit as st

from serving.dashboard.screens import (
    course,
    data_health,
    events,
    learner,
    needs_help,
    overview,
    quiz,
    video,
)


def pages() -> list[st.Page]:
    return [
        st.Page(overview.show, title="Overview", icon=":material/home:", default=True),
        st.Page(
            course.show,
            title="Course",
            icon=":material/filter_alt:",
            url_path="course",
        ),
        st.Page(
            video.show, title="Video", icon=":material/play_circle:", url_path="video"
        ),
        st.Page(quiz.show, title="Quiz", icon=":material/quiz:", url_path="quiz"),
        st.Page(
            needs_help.show,
            title="Needs help",
            icon=":material/support:",
            url_path="needs_help",
        ),
        st.Page(
            learner.show, title="Learner", icon=":material/person:", url_path="learner"
        ),
        st.Page(
            data_health.show,
            title="Data health",
            icon=":material/monitor_heart:",
            url_path="data_health",
        ),
        st.Page(events.show, title="Events", url_path="events", visibility="hidden"),
    ]


@st.cache_resource(show_spinner=False)
def _imported() -> None:
    """Streamlit collects garbage after each page: all that was imported is none, and
    looking through it takes as long as a small page."""
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _imported()
    st.set_page_config(page_title="Learning", layout="wide")
    st.navigation(pages()).run()
