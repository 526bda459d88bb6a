"""What ``twistd`` offers when dostore is installed."""

from twisted.application.service import ServiceMaker

api = ServiceMaker(
    "dostore-api", "dostore.app.api_tap", "The dostore object store, on HTTP.", "dostore-api"
)
data = ServiceMaker(
    "dostore-data", "dostore.app.data_tap", "A data server of a dostore cluster.", "dostore-data"
)
