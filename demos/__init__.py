"""The app: one tab a file, on the same generators as the library and the command; see `app`.

A file of this folder is a tab. It holds

    TITLE            what stands on the tab
    PLACE            where it stands among the others; smaller is further left
    build(site)      what is on it, made inside its `gradio.Tab`
"""

SHARED = ("app",)
