from ledger.invoice import Invoice


def invoice(discount, *prices):
    made = Invoice("7", discount)
    for place, price in enumerate(prices):
        made.add(f"Item {place}", price)
    return made


def test_without_discount():
    assert invoice(0, 335, 335).total == 670


def test_total_is_rounded_once():
    assert invoice(10, 335, 335, 335).total == 905


def test_text():
    assert invoice(50, 200).text().splitlines()[-1] == "Total" + " " * 21 + "1.00"
