"""What the adaptive rule knows of notebooks in general.

Made by ``python -m bench.replay`` from 100,131 bursts of GPU use by interactive notebooks in a
public trace of June 2021 (ds2-lab/NotebookOS-Dashboard). Kinds are rows, from notebooks that go on
soonest to those that pause longest; each is about a tenth of all pauses.
"""

from __future__ import annotations

from ._adaptive import Model


def _rows(text: str, unit: float) -> list[list[float]]:
    return [[int(word) * unit for word in line.split()] for line in text.strip().splitlines()]


#: After how many minutes without use a share may be released: the columns of both tables.
_AGES = """
    1    2    3    4    5    6    7    8   10   12   15   20   25   30   40   60   90  120  240
"""
#: Of 10,000 pauses, how many were longer than that.
_WAITS = """
 2859  836  313  165   96   62   46   38   29   28   23   20   15   12   10    9    9    8    7
 3513 1652  826  470  296  214  147  106   63   51   41   38   31   31   26   19   18   16   12
 4392 2609 1387  879  557  378  275  211  128   85   61   46   40   39   35   30   25   24   20
 4455 2841 1730 1134  801  562  403  314  188  134   82   45   39   37   34   29   25   22   16
 4691 3250 2260 1468 1076  713  543  418  258  160   93   56   48   42   39   34   27   24   20
 4869 3498 2595 1655 1238  887  688  550  334  246  159  106   90   79   65   50   42   36   26
 4190 2971 2245 1781 1430 1172  965  817  577  445  348  250  197  167  135  111   97   85   52
 3100 2306 1849 1568 1358 1195 1065  968  809  707  587  465  392  349  283  215  176  148   94
 3168 2627 2308 2098 1912 1756 1640 1548 1396 1263 1093  930  811  725  605  485  388  346  237
 4002 3551 3226 3006 2820 2672 2545 2437 2218 2067 1846 1640 1449 1314 1140  897  695  581  387
"""
#: The seconds of share that a release at that age returned, for each pause, whether it came or not.
_RETURNED = """
   56   39   34   32   31   31   30   30   30   29   29   28   28   27   27   25   24   22   17
   90   69   59   54   51   49   48   47   46   45   44   43   42   41   40   37   33   30   20
  148  122  106   98   92   89   87   85   83   82   80   79   77   76   74   70   65   60   44
  147  120  103   93   86   81   78   75   72   70   68   66   65   64   61   57   53   48   34
  180  152  133  119  110  104  100   96   92   89   87   85   83   82   79   75   69   65   49
  218  189  168  153  143  135  130  126  120  116  113  109  106  103   99   92   84   77   56
  386  361  343  329  319  310  303  297  288  282  275  266  259  253  244  229  211  194  146
  536  518  504  493  483  475  468  462  450  441  429  413  400  389  370  340  305  277  195
 1355 1336 1320 1306 1294 1282 1271 1262 1244 1227 1206 1175 1149 1125 1085 1020  942  876  672
 2214 2190 2168 2149 2131 2114 2098 2083 2054 2028 1992 1940 1893 1851 1777 1656 1514 1400 1062
"""

LEARNT = Model(
    expected=288.0,
    trust=2.0,
    bounds=[69.87, 77.77, 85.79, 94.18, 104.4, 119.5, 152.8, 220.2, 318.3],
    ages=_rows(_AGES, 60)[0],
    waits=_rows(_WAITS, 1e-4),
    returned=_rows(_RETURNED, 1),
    prices=[
        (0.005, 27890.0),
        (0.01, 16010.0),
        (0.02, 5337.0),
        (0.03, 2668.0),
        (0.04, 1566.0),
        (0.06, 852.0),
        (0.08, 550.9),
        (0.1, 426.0),
        (0.15, 318.1),
        (0.2, 245.2),
        (0.3, 112.4),
    ],
)
