"""What may differ from one decoder to the next, as encoder_tables.py has it for encoders; each family keeps its own file.

The first four types have tables of another form in random_configs.py, which the goldens were recorded from.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.architectures import gpt_tables, latent_tables, lineage_tables, moe_tables
from tests.architectures.encoder_tables import Column

# By model type: columns of partial configs, one of each column making a configuration.
TABLES: Mapping[str, Mapping[str, Column]] = {
    **gpt_tables.TABLES,
    **lineage_tables.TABLES,
    **moe_tables.TABLES,
    **latent_tables.TABLES,
}
