"""FastAPI routes and Streamlit pages; asks other rooms for work only through topics."""
