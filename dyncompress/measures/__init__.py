"""What theory reads off a layer: indicators with their uncertainty, never certificates. `MEASURES` is the index."""

from dyncompress.measures.block_sum import BlockSum
from dyncompress.measures.compressibility import Compressibility
from dyncompress.measures.esd_alpha import EsdMid, EsdPeak, EsdPowerLaw
from dyncompress.measures.farms import Farms
from dyncompress.measures.fluctuation import FluctuationScale, fluctuation_variance, free_bits
from dyncompress.measures.hill import Hill
from dyncompress.measures.kurtosis import Kurtosis
from dyncompress.measures.power_law import PowerLaw
from dyncompress.measures.snr import SignalToNoise
from dyncompress.measures.spikes import Spikes
from dyncompress.measures.stable_rank import StableRank

MEASURES = {
    "block_sum": BlockSum,
    "hill": Hill,
    "power_law": PowerLaw,
    "esd_mid": EsdMid,
    "esd_power_law": EsdPowerLaw,
    "esd_peak": EsdPeak,
    "farms": Farms,
    "stable_rank": StableRank,
    "spikes": Spikes,
    "kurtosis": Kurtosis,
    "compressibility": Compressibility,
    "fluctuation_scale": FluctuationScale,
    "signal_to_noise": SignalToNoise,
}

__all__ = [
    "MEASURES",
    "BlockSum",
    "Compressibility",
    "EsdMid",
    "EsdPeak",
    "EsdPowerLaw",
    "Farms",
    "FluctuationScale",
    "Hill",
    "Kurtosis",
    "PowerLaw",
    "SignalToNoise",
    "Spikes",
    "StableRank",
    "fluctuation_variance",
    "free_bits",
]
