"""Measures: numbers computed from a layer's weights, data or training, each with its uncertainty. None is a bound.

`MEASURES` maps the name that a recipe gives a measure to its class. An instance names what it needs (`measure.needs`); called on
an `Observation` that holds these values, it returns an `Estimate`.

Example:
    >>> import numpy as np
    >>> from dyncompress.types import Layer, Observation, Weight
    >>> layer = Layer("fc", "linear", (2, 2), macs=4)
    >>> MEASURES["stable_rank"]().needs
    (Spectrum(view='flat'),)
    >>> MEASURES["compressibility"](keep=0.25)(Observation(layer, {Weight(): np.array([[4.0, 0.0], [-3.0, 0.0]])})).value
    0.6
"""

from dyncompress.measures.block_sum import BlockSum
from dyncompress.measures.compressibility import Compressibility
from dyncompress.measures.data_ph_dimension import DataPhDimension
from dyncompress.measures.det_rank import DetRank
from dyncompress.measures.effective_width import EffectiveWidth
from dyncompress.measures.esd_alpha import EsdMid, EsdPeak, EsdPowerLaw
from dyncompress.measures.farms import Farms
from dyncompress.measures.fisher_norms import FisherRaoNorm, FisherTrace
from dyncompress.measures.fluctuation import FluctuationScale, fluctuation_variance, free_bits
from dyncompress.measures.gradient_noise_tail import GradientNoiseTail
from dyncompress.measures.hessian_trace import HessianTrace
from dyncompress.measures.hill import Hill
from dyncompress.measures.increment_tail import IncrementTail
from dyncompress.measures.kurtosis import Kurtosis
from dyncompress.measures.lifetime_sum import LifetimeSum
from dyncompress.measures.log_norms import AlphaWeighted, LogAlphaNorm
from dyncompress.measures.magnitude import Magnitude, PositiveMagnitude
from dyncompress.measures.noise_attenuation import LayerCushion, NoiseAttenuation
from dyncompress.measures.outlier_ratio import OutlierRatio
from dyncompress.measures.participation_ratio import ParticipationRatio
from dyncompress.measures.ph_dimension import PhDimension
from dyncompress.measures.power_law import PowerLaw
from dyncompress.measures.pq_index import PqIndex
from dyncompress.measures.row_block_sum import RowBlockSum
from dyncompress.measures.sharpness_dimension import SharpnessDimension
from dyncompress.measures.snr import SignalToNoise
from dyncompress.measures.soft_rank import SoftRank
from dyncompress.measures.spectral_entropy import EffectiveRank, SpectralEntropy
from dyncompress.measures.spikes import Spikes
from dyncompress.measures.spread import RowSpread, SpectralSpread
from dyncompress.measures.stable_rank import StableRank
from dyncompress.measures.structured_compressibility import RowCompressibility, SpectralCompressibility
from dyncompress.measures.two_nn import TwoNN
from dyncompress.measures.whole_run import whole_run

MEASURES = {
    "block_sum": BlockSum,
    "row_block_sum": RowBlockSum,
    "hill": Hill,
    "power_law": PowerLaw,
    "esd_mid": EsdMid,
    "esd_power_law": EsdPowerLaw,
    "esd_peak": EsdPeak,
    "farms": Farms,
    "alpha_weighted": AlphaWeighted,
    "log_alpha_norm": LogAlphaNorm,
    "stable_rank": StableRank,
    "effective_rank": EffectiveRank,
    "spectral_entropy": SpectralEntropy,
    "det_rank": DetRank,
    "soft_rank": SoftRank,
    "spikes": Spikes,
    "kurtosis": Kurtosis,
    "pq_index": PqIndex,
    "compressibility": Compressibility,
    "row_compressibility": RowCompressibility,
    "spectral_compressibility": SpectralCompressibility,
    "row_spread": RowSpread,
    "spectral_spread": SpectralSpread,
    "effective_width": EffectiveWidth,
    "outlier_ratio": OutlierRatio,
    "layer_cushion": LayerCushion,
    "noise_attenuation": NoiseAttenuation,
    "sharpness_dimension": SharpnessDimension,
    "hessian_trace": HessianTrace,
    "fisher_trace": FisherTrace,
    "fisher_rao_norm": FisherRaoNorm,
    "fluctuation_scale": FluctuationScale,
    "signal_to_noise": SignalToNoise,
    "participation_ratio": ParticipationRatio,
    "two_nn": TwoNN,
    "ph_dimension": PhDimension,
    "data_ph_dimension": DataPhDimension,
    "lifetime_sum": LifetimeSum,
    "magnitude": Magnitude,
    "positive_magnitude": PositiveMagnitude,
    "increment_tail": IncrementTail,
    "gradient_noise_tail": GradientNoiseTail,
}

__all__ = [
    "MEASURES",
    "AlphaWeighted",
    "BlockSum",
    "Compressibility",
    "DataPhDimension",
    "DetRank",
    "EffectiveRank",
    "EffectiveWidth",
    "EsdMid",
    "EsdPeak",
    "EsdPowerLaw",
    "Farms",
    "FisherRaoNorm",
    "FisherTrace",
    "FluctuationScale",
    "GradientNoiseTail",
    "HessianTrace",
    "Hill",
    "IncrementTail",
    "Kurtosis",
    "LayerCushion",
    "LifetimeSum",
    "LogAlphaNorm",
    "Magnitude",
    "NoiseAttenuation",
    "OutlierRatio",
    "ParticipationRatio",
    "PhDimension",
    "PositiveMagnitude",
    "PowerLaw",
    "PqIndex",
    "RowBlockSum",
    "RowCompressibility",
    "RowSpread",
    "SharpnessDimension",
    "SignalToNoise",
    "SoftRank",
    "SpectralCompressibility",
    "SpectralEntropy",
    "SpectralSpread",
    "Spikes",
    "StableRank",
    "TwoNN",
    "fluctuation_variance",
    "free_bits",
    "whole_run",
]
