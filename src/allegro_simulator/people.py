"""Invented buyers, streets and goods; a buyer is a function of a number, so the same one comes back."""

from functools import lru_cache
from typing import NamedTuple

FIRST = {
    "PL": ["Zofia", "Łucja", "Żaneta", "Agnieszka", "Jadwiga", "Bożena", "Małgorzata", "Irena", "Wiesława", "Śnieżka"],
    "CZ": ["Petra", "Božena", "Žofie", "Jiřina", "Květa", "Růžena", "Zdeňka", "Šárka"],
    "SK": ["Zuzana", "Ľubica", "Želmíra", "Božena", "Alžbeta", "Soňa", "Ružena"],
}
LAST = {
    "PL": [
        "Testowa",
        "Przykładowa",
        "Zakupowa",
        "Wzorcowa",
        "Próbna",
        "Zmyślona",
        "Ćwiczebna",
        "Źdźbłowa",
        "Książkowa",
        "Żółwiowa",
        "Paczkowa",
        "Łąkotkowa",
        "Śliwkokwietna",
        "Gęśliczna",
        "Wymyślna",
        "Nieprawdziwa",
        "Umowna",
    ],
    "CZ": ["Ukázková", "Vzorová", "Zkušební", "Příkladná", "Smyšlená", "Žluťoučká", "Neexistující"],
    "SK": ["Vzorná", "Ukážková", "Skúšobná", "Príkladná", "Vymyslená", "Ľahostajná"],
}
STREETS = {
    "PL": ["Testowa", "Przykładowa", "Wymyślona", "Śnieżynkowa", "Źródlana", "Łąkowa-Próbna", "Żółta-Wzorcowa", "Ćmia"],
    "CZ": ["Vzorová", "Ukázková", "Smyšlená", "Příkladná", "Zkušební", "Žlutá-Vzorová"],
    "SK": ["Vzorová", "Ukážková", "Skúšobná", "Vymyslená", "Ľahká-Vzorová"],
}
CITIES = {
    "PL": [
        ("Poznań", "60-166", "POZ"),
        ("Łódź", "90-001", "LOD"),
        ("Wrocław", "53-608", "WRO"),
        ("Kraków", "30-001", "KRA"),
        ("Gdańsk", "80-001", "GDA"),
        ("Toruń", "87-100", "TOR"),
        ("Rzeszów", "35-001", "RZE"),
        ("Białystok", "15-001", "BIA"),
        ("Częstochowa", "42-200", "CZE"),
    ],
    "CZ": [("Brno", "602 00", "BRN"), ("Plzeň", "301 00", "PLZ"), ("Ústí nad Labem", "400 01", "UST")],
    "SK": [("Košice", "040 01", "KOS"), ("Žilina", "010 01", "ZIL"), ("Bratislava", "811 01", "BRA")],
}
PREFIX = {"PL": "+48", "CZ": "+420", "SK": "+421"}

THINGS = [
    "Kubek ceramiczny",
    "Lampka biurkowa LED",
    "Zestaw noży",
    "Deska do krojenia",
    "Kawa ziarnista",
    "Puzzle",
    "Plecak",
    "Smartwatch",
    "Koc polarowy",
    "Etui na telefon",
    "Kabel USB-C",
    "Buty trekkingowe",
    "Sukienka letnia",
    "Świeca zapachowa",
    "Odkurzacz",
    "Filtr HEPA",
    "Książka kucharska",
    "Papier ksero",
    "Ręcznik",
    "Pościel z żółtą lamówką",
    "Żelazko",
    "Gąbka",
]
KINDS = [
    "biały",
    "czarny",
    "mały",
    "duży",
    "330 ml",
    "1 kg",
    "50% taniej",
    "rozm. M",
    "rozm. XL",
    "z gwarancją",
    "ekologiczny",
    "dziecięcy",
    '15,6\\" cala',
    "nr & 7",
    "(3 szt.)",
    "30 °C",
]
MESSAGES = (
    "Proszę o szybką wysyłkę.",
    "Proszę o fakturę na firmę.",
    "To prezent, bez paragonu :)",
    'Zażółć gęślą jaźń\\nDruga linia, ze znakiem \\"cudzysłów\\" i ukośnikiem \\\\.',
    "Děkuji, posílejte na výdejní místo 📦",
)


class Buyer(NamedTuple):
    """One invented buyer; every text is already escaped for JSON."""

    id: str
    email: str
    login: str
    first: str
    last: str
    phone: str
    street: str
    city: str
    zip: str
    city_code: str
    company: str
    tax_id: str


@lru_cache(maxsize=30_000)
def buyer(country: str, number: int, *, guest: bool) -> Buyer:
    """The buyer with this number in this country."""
    region = 9 if guest else ("PL", "CZ", "SK").index(country)
    identity = 40_000_000 + region * 1_000_000 + number
    city, code, short = CITIES[country][number * 5 % len(CITIES[country])]
    last = LAST[country][number // 3 % len(LAST[country])]
    return Buyer(
        id=str(identity),
        email=f"tst{identity}+{identity * 2_654_435_761 & 0xFFFFFFFFF:09x}@allegromail.pl",
        login=f"Client:{identity}",
        first=FIRST[country][number % len(FIRST[country])],
        last=last,
        phone=f"{PREFIX[country]} 600 000 {number % 1_000:03d}",
        street=f"{STREETS[country][number // 2 % len(STREETS[country])]} {number % 180 + 1}",
        city=city,
        zip=code,
        city_code=short,
        company=f"{last} Hurtownia {number} sp. z o.o.",
        tax_id=f"000-{number // 1_000 % 100:02d}-{number // 10 % 100:02d}-{number % 1_000:03d}",
    )


@lru_cache(maxsize=1_024)
def offer(number: int) -> tuple[str, str, str]:
    """Id, name (escaped for JSON) and the seller's own code of an offer."""
    thing = THINGS[number % len(THINGS)]
    return str(15_400_000_000 + number), f"{thing} {KINDS[number // 5 % len(KINDS)]}", f"KOD-{number:05d}"
