r"""Makes places.mmdb: a database of addresses in MaxMind's format, of networks that are for documentation alone.

    python -m venv v && v/bin/pip install mmdb_writer==0.2.7 netaddr==1.3.0
    v/bin/python make.py
"""

from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

PLACES = {
    "198.51.100.0/25": ("DE", 52.52, 13.40),  # Berlin
    "198.51.100.128/25": ("DE", 51.34, 12.37),  # Leipzig
    "192.0.2.0/24": ("PL", 53.43, 14.55),  # Szczecin, 130 km from Berlin
    "203.0.113.0/25": ("AU", -33.87, 151.21),  # Sydney
    "203.0.113.128/25": ("AU", None, None),  # somewhere in the country
    "2001:db8:7::/48": ("PL", 53.43, 14.55),
}

writer = MMDBWriter(
    ip_version=6,
    ipv4_compatible=True,
    database_type="GeoLite2-City",
    languages=["en"],
    description="Networks for documentation, at places they never were",
)
for network, (country, latitude, longitude) in PLACES.items():
    record = {"country": {"iso_code": country}}
    if latitude is not None:
        record["location"] = {"latitude": latitude, "longitude": longitude}
    writer.insert_network(IPSet([network]), record)
writer.to_db_file(str(Path(__file__).parent / "places.mmdb"))
