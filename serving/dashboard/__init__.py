"""The dashboard: Streamlit pages on the questions and charts of `serving`.

`app.py` is what Streamlit runs; a page in `screens/` shows one subject.
"""
