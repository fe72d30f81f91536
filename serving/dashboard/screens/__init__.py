"""One module for each page; `show` draws it.

Not `pages`: Streamlit would take a folder of that name for pages of its own making.
"""
