"""The addresses of the views."""

from django.urls import path

from web import views

urlpatterns = [
    path("", views.page),
    path("completions", views.ask),
    path("emails", views.send),
    path("jobs/<uuid:job_id>", views.job),
]
handler404 = views.not_found
